-- Bits per byte of held-out text by source, mean over seeds
-- $model = NULL: only this model
SELECT
    model, stage_kind || '-' || trained_context_tokens AS checkpoint, task AS source,
    avg(value) AS bits_per_byte, stddev_samp(value) AS sd, count(*) AS seeds
FROM current_evals
WHERE metric = 'bits_per_byte' AND ($model IS NULL OR model = $model)
GROUP BY ALL
ORDER BY source, bits_per_byte, model, checkpoint
