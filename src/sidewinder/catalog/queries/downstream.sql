-- Everything that was made from an artifact or by a job: what to make again where it is found faulty
-- $of: a path or its end, the first digits of a digest, or the name of a job, such as english
WITH RECURSIVE start AS (
    SELECT artifact AS node FROM artifacts
    WHERE artifact = $of OR ends_with(path, $of) OR (length($of) >= 6 AND starts_with(sha256, $of))
    UNION
    SELECT job FROM jobs WHERE job = $of OR (name = $of AND current)
), walk(node, depth) AS (
    SELECT node, 0 FROM start
    UNION
    SELECT edges.dst, walk.depth + 1 FROM walk JOIN edges ON edges.src = walk.node
), nearest AS (
    SELECT node, min(depth) AS depth FROM walk GROUP BY node
)
SELECT depth, 'artifact' AS what, role AS kind, path AS name, sha256, current
FROM nearest JOIN artifacts ON artifact = node
UNION ALL
SELECT depth, 'job', kind, job, identity, current FROM nearest JOIN jobs ON job = node
ORDER BY depth, what, kind, name
