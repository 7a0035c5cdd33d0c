-- Everything that was made from an artifact or by a job: what to make again where it is found faulty
-- $of: a path or its end, the first digits of a digest, or the name of a job, such as english
SELECT depth, 'artifact' AS what, role AS kind, path AS name, sha256, current
FROM walk($of, false) JOIN artifacts ON artifact = node
UNION ALL
SELECT depth, 'job', kind, job, identity, current FROM walk($of, false) JOIN jobs ON job = node
ORDER BY depth, what, kind, name
