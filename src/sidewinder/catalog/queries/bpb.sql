-- Bits per byte of held-out text by source, mean over seeds
-- $suite = NULL: only this suite
-- $model = NULL: only this model
SELECT
    suite, model, stage_kind || '-' || trained_context_tokens AS checkpoint, task AS source, variant,
    avg(value) AS bits_per_byte, stddev_samp(value) AS sd, count(*) AS seeds
FROM current_evals
WHERE metric = 'bits_per_byte' AND ($model IS NULL OR model = $model) AND ($suite IS NULL OR suite = $suite)
GROUP BY ALL
ORDER BY suite, source, variant, bits_per_byte, model, checkpoint
