-- Scores of every current checkpoint, tasks as columns, means over seeds
-- A score that depends on length is taken at the longest length that the checkpoint was trained for.
-- $suite = NULL: only this suite
-- $all = false: true for every metric, source and part of a group, instead of the blend, exact matches and whole groups
WITH chosen AS (
    SELECT *, count(DISTINCT task) OVER (PARTITION BY suite) AS tasks
    FROM leaderboard
    WHERE (getvariable('suite') IS NULL OR suite = getvariable('suite'))
        AND (getvariable('all')::BOOLEAN OR NOT (
            metric = 'digit_agreement' OR part_of IS NOT NULL
            OR (metric = 'bits_per_byte' AND task <> 'blend' AND EXISTS (FROM leaderboard WHERE task = 'blend'))
        ))
), named AS (
    SELECT
        model, stage_kind AS stage, trained_context_tokens AS context, value,
        concat_ws(' ', suite, if(tasks > 1, task, NULL), variant, metric) AS score
    FROM chosen
)
PIVOT named ON score USING round(any_value(value), 4) GROUP BY model, stage, context
ORDER BY context, model
