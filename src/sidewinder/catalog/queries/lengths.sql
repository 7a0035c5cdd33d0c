-- Score against context length, mean over seeds
-- $task = NULL: only this task
-- $metric = NULL: only this metric
-- $model = NULL: only this model
SELECT
    task, variant, metric, model, stage_kind || '-' || trained_context_tokens AS checkpoint, context_tokens,
    avg(value) AS value, stddev_samp(value) AS sd, count(*) AS seeds, sum(n)::BIGINT AS n
FROM current_evals
WHERE context_tokens IS NOT NULL AND ($task IS NULL OR task = $task) AND ($metric IS NULL OR metric = $metric)
    AND ($model IS NULL OR model = $model)
GROUP BY ALL
ORDER BY task, variant, metric, model, checkpoint, context_tokens
