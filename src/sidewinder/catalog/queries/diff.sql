-- Settings, inputs and code in which two stages differ
-- $a: a stage or a run, or model-sSEED for the current run; a run stands for its pretraining
-- $b: the other
WITH side AS (
    SELECT 'a' AS side, $a AS wanted UNION ALL SELECT 'b', $b
), chosen AS (
    SELECT side, arg_max(stage, (stage = wanted, s.current, started_at)) AS stage
    FROM side JOIN stages AS s
        ON s.stage = wanted
        OR (s.kind = 'pretrain' AND (s.run = wanted OR (s.model || '-s' || s.seed = wanted AND s.current)))
    GROUP BY side
), setting AS (
    SELECT side, key, value FROM chosen JOIN params USING (stage)
    UNION ALL
    SELECT side, 'input.' || e.role || '.' || a.path, left(a.sha256, 12)
    FROM chosen JOIN stages USING (stage) JOIN edges AS e ON e.dst = stages.job JOIN artifacts AS a ON a.artifact = e.src
    UNION ALL
    SELECT side, 'code.sha256', left(code_sha256, 12) FROM chosen JOIN stages USING (stage) JOIN jobs USING (job)
    UNION ALL
    SELECT side, 'environment', jobs.environment FROM chosen JOIN stages USING (stage) JOIN jobs USING (job)
)
SELECT key, any_value(value) FILTER (side = 'a') AS a, any_value(value) FILTER (side = 'b') AS b
FROM setting
GROUP BY key
HAVING a IS DISTINCT FROM b
ORDER BY key
