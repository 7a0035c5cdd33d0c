-- What suites could not do on current checkpoints, and why: tasks, lengths and questions left out, requests cut short
-- $suite = NULL: only this suite
-- $model = NULL: only this model
-- $stage = NULL: only this checkpoint, as the table stages names it
SELECT
    s.model, s.seed, s.kind || '-' || s.context_tokens AS checkpoint, j.suite,
    CASE split_part(f.key, '.', 1)
        WHEN 'missing' THEN 'task' WHEN 'lengths_left_out' THEN 'length'
        WHEN 'skipped_by_task' THEN 'questions' ELSE 'cut short'
    END AS what,
    substr(f.key, 1 + strpos(f.key, '.')) AS name,
    CASE what
        WHEN 'cut short' THEN f.value || ' requests longer than the context, cut to fit'
        WHEN 'questions' THEN f.value || ' with more text than the length holds, passed over'
        ELSE f.value
    END AS why
FROM facts AS f JOIN jobs AS j USING (job) JOIN stages AS s ON s.stage = j.stage
WHERE j.current AND j.kind = 'evaluate' AND regexp_matches(f.key, '^(missing|lengths_left_out|truncated_by_task|skipped_by_task)[.]')
    AND ($suite IS NULL OR j.suite = $suite) AND ($model IS NULL OR s.model = $model)
    AND ($stage IS NULL OR s.stage = $stage)
ORDER BY s.model, s.seed, s.context_tokens, j.suite, what, TRY_CAST(name AS BIGINT), name
