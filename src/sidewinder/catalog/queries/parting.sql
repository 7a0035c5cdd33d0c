-- How far the losses of two models part, step by step, and in the last tenth of the steps
-- $a: one model, say hybrid
-- $b: the other, say hybrid_bfloat16
WITH pairs AS (
    SELECT x.seed, x.kind, x.context_tokens, p.step, p.step > 0.9 * x.steps AS late, q.loss - p.loss AS difference
    FROM stages AS x
    JOIN stages AS y ON (y.seed, y.kind, y.context_tokens) = (x.seed, x.kind, x.context_tokens)
    JOIN steps AS p ON p.stage = x.stage
    JOIN steps AS q ON q.stage = y.stage AND q.step = p.step
    WHERE x.model = $a AND y.model = $b AND x.current AND y.current
)
SELECT
    seed, kind, context_tokens, count(*) AS steps,
    max(abs(difference)) AS largest, arg_max(step, (abs(difference), -step)) AS at_step, avg(abs(difference)) AS mean,
    max(abs(difference)) FILTER (late) AS largest_late, avg(difference) FILTER (late) AS b_minus_a_late
FROM pairs
GROUP BY ALL
ORDER BY seed, context_tokens
