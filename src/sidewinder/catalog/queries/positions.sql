-- Look-ups (Phonebook, needles) by the place of the entry in the prompt, mean over seeds
-- Part 1 is the beginning of the prompt; exact match and digits are shares of the questions and of their digits.
-- $suite = NULL: only this suite
-- $task = NULL: only this task
-- $model = NULL: only this model
-- $length = NULL: only prompts of this length in tokens
-- $parts = 4: parts that the prompt is cut into
SELECT
    suite, task, variant, model, stage_kind || '-' || trained_context_tokens AS checkpoint, context_tokens, part,
    avg(exact_match) AS exact_match, stddev_samp(exact_match) AS sd, avg(stderr) AS stderr,
    avg(digit_agreement) AS digit_agreement, count(*) AS seeds, sum(n)::BIGINT AS n
FROM positions($parts)
WHERE ($task IS NULL OR task = $task) AND ($model IS NULL OR model = $model)
    AND ($length IS NULL OR context_tokens = $length::BIGINT) AND ($suite IS NULL OR suite = $suite)
GROUP BY ALL
ORDER BY suite, task, variant, model, checkpoint, context_tokens, part
