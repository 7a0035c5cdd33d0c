-- Score against context length, mean over seeds
-- $suite = NULL: only this suite
-- $task = NULL: only this task
-- $metric = NULL: only this metric
-- $model = NULL: only this model
SELECT
    suite, task, variant, metric, model, stage_kind || '-' || trained_context_tokens AS checkpoint, context_tokens,
    avg(value) AS value, stddev_samp(value) AS sd, count(*) AS seeds, sum(n)::BIGINT AS n
FROM current_evals
WHERE context_tokens IS NOT NULL AND ($task IS NULL OR task = $task) AND ($metric IS NULL OR metric = $metric)
    AND ($model IS NULL OR model = $model) AND ($suite IS NULL OR suite = $suite)
GROUP BY ALL
ORDER BY suite, task, variant, metric, model, checkpoint, context_tokens
