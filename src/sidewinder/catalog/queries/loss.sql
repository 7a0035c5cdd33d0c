-- Training loss against tokens, all current stages on one axis
-- $model = NULL: only this model
-- $every = 1: one row in so many steps
SELECT s.model, s.seed, s.kind, s.context_tokens, m.step, m.total_tokens, m.loss
FROM steps AS m JOIN stages AS s USING (stage)
WHERE s.current AND ($model IS NULL OR s.model = $model) AND (m.step % $every::BIGINT = 0 OR m.step = s.steps)
ORDER BY s.model, s.seed, s.context_tokens, m.step
