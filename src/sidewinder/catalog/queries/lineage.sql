-- Everything that an artifact, a score or a job was made from, back to source files, code and configuration
-- The configuration behind a config_sha256: SELECT config FROM jobs WHERE job = …
-- $of: a path or its end, the first digits of a digest, or the name of a job, such as hybrid-s1/pretrain-256/phonebook
SELECT
    depth, 'artifact' AS what, role AS kind, path AS name, sha256, bytes,
    NULL AS commit, NULL AS dirty, NULL AS code_sha256, NULL AS config_sha256
FROM walk($of, true) JOIN artifacts ON artifact = node
UNION ALL
SELECT
    depth, 'job', kind, job, identity, NULL,
    commit, dirty, code_sha256, config_sha256
FROM walk($of, true) JOIN jobs ON job = node
ORDER BY depth, what, kind, name
