-- Views over the tables: what people ask for most.

-- One row a training step, the usual numbers as columns.
CREATE VIEW steps AS
SELECT
    run, stage, step, any_value(tokens) AS tokens, any_value(total_tokens) AS total_tokens,
    any_value(value) FILTER (name = 'loss') AS loss,
    any_value(value) FILTER (name = 'bits_per_byte') AS bits_per_byte,
    any_value(value) FILTER (name = 'learning_rate') AS learning_rate,
    any_value(value) FILTER (name = 'gradient_norm') AS gradient_norm,
    any_value(value) FILTER (name = 'tokens_per_s') AS tokens_per_s,
    any_value(value) FILTER (name = 'step_s') AS step_s,
    any_value(value) FILTER (name = 'memory_bytes') AS memory_bytes,
    any_value(time) AS time
FROM metrics
GROUP BY run, stage, step;

-- The last value of each metric of a stage, with its extremes.
CREATE VIEW latest_metrics AS
SELECT
    run, stage, name, max(step) AS step, max_by(value, step) AS last, min(value) AS min, max(value) AS max
FROM metrics
GROUP BY run, stage, name;

-- Scores of the study as it is configured now, with the model behind each.
CREATE VIEW current_evals AS
SELECT
    s.model, s.seed, s.kind AS stage_kind, s.context_tokens AS trained_context_tokens,
    e.* EXCLUDE (current), regexp_matches(e.metric, 'bits_per_byte|perplexity|loss') AS lower_is_better
FROM evals AS e JOIN stages AS s USING (stage)
WHERE e.current;

-- Mean and spread over seeds of every current score, ranked within its task; a score that depends on length is taken
-- at the longest length that the checkpoint was trained for.
CREATE VIEW leaderboard AS
WITH own_length AS (
    SELECT *
    FROM current_evals
    WHERE context_tokens IS NULL OR context_tokens <= trained_context_tokens
    QUALIFY context_tokens IS NOT DISTINCT FROM
        max(context_tokens) OVER (PARTITION BY stage, suite, task, metric, variant)
), mean AS (
    SELECT
        model, stage_kind, trained_context_tokens, suite, task, part_of, metric, variant, context_tokens,
        lower_is_better,
        avg(value) AS value, stddev_samp(value) AS sd, count(*) AS seeds
    FROM own_length
    GROUP BY ALL
)
SELECT
    * EXCLUDE (lower_is_better),
    rank() OVER (
        PARTITION BY suite, task, metric, variant ORDER BY CASE WHEN lower_is_better THEN value ELSE -value END
    ) AS place
FROM mean;

-- What each step of cleaning took in and gave out; tokens as the tokenizer spells the source's held-out text.
CREATE VIEW cleaning AS
SELECT
    f.source, f.place, f.step, f.documents_in, f.documents_out, f.bytes_in, f.bytes_out,
    round(f.bytes_in * t.number)::BIGINT AS tokens_in, round(f.bytes_out * t.number)::BIGINT AS tokens_out, f.job
FROM filters AS f JOIN sources AS s USING (job)
LEFT JOIN (SELECT key, number FROM facts JOIN jobs USING (job) WHERE kind = 'tokenizer' AND current) AS t
    ON t.key = 'tokens_per_byte.' || f.source
WHERE s.current
ORDER BY f.source, f.place;

-- Documents, bytes and tokens of every source of the current study.
CREATE VIEW corpus AS
WITH counts AS (
    SELECT
        source,
        sum(tokens) FILTER (split = 'train') AS tokens,
        sum(tokens) FILTER (split = 'heldout') AS heldout_tokens
    FROM shards WHERE current GROUP BY source
)
SELECT
    source, b.weight, s.language, s.licence, s.documents, s.bytes, c.tokens,
    s.bytes / c.tokens AS bytes_per_token, s.heldout_documents, s.heldout_bytes, c.heldout_tokens,
    s.read_documents, s.dropped_documents
FROM sources AS s
LEFT JOIN counts AS c USING (source)
LEFT JOIN (FROM blends WHERE current) AS b USING (source)
WHERE s.current;

-- What an earlier configuration left behind.
CREATE VIEW superseded AS
SELECT kind, name, job, started_at, wall_s FROM jobs WHERE NOT current;

-- Jobs that read a file which has since been made anew with other content.
CREATE VIEW stale AS
SELECT j.job, j.name, used.path, used.sha256 AS read_sha256, made.sha256 AS present_sha256
FROM edges AS e
JOIN jobs AS j ON j.job = e.dst
JOIN artifacts AS used ON used.artifact = e.src AND used.job IS NULL
JOIN artifacts AS made ON made.path = used.path AND made.job IS NOT NULL
WHERE e.relation = 'used';

-- One row a question about an entry whose place in its prompt is known, from 0 (first) to 1 (last): Phonebook, needles.
CREATE VIEW look_ups AS
SELECT
    s.model, s.seed, s.kind AS stage_kind, s.context_tokens AS trained_context_tokens, q.stage, q.suite, q.task, q.variant,
    q.context_tokens, coalesce(q.details->>'name', q.details->>'book', CAST(q.sample AS VARCHAR)) AS prompt,
    CAST(q.details->>'position' AS DOUBLE) AS position, q.metrics['exact_match'] AS exact,
    coalesce(CAST(q.details->>'digits_right' AS DOUBLE), q.metrics['digit_agreement']) AS digits_right,
    coalesce(CAST(q.details->>'digits' AS DOUBLE), 1.0) AS digits
FROM samples AS q JOIN stages AS s USING (stage)
WHERE q.current AND q.details->>'position' IS NOT NULL AND q.metrics['exact_match'] IS NOT NULL;

-- Scores of every seed by place: prompts cut into `parts` equal parts. The standard error takes a prompt's questions as one.
CREATE MACRO positions(parts) AS TABLE
WITH prompt AS (
    SELECT
        * EXCLUDE (position, exact, digits_right, digits),
        1 + least(floor(position * parts::BIGINT), parts::BIGINT - 1)::BIGINT AS part,
        sum(exact) AS exact, count(*) AS asked, sum(digits_right) AS digits_right, sum(digits) AS digits
    FROM look_ups
    GROUP BY ALL
), share AS (
    SELECT
        * EXCLUDE (prompt, exact, asked, digits_right, digits),
        sum(exact) / sum(asked) AS exact_match, sum(digits_right) / sum(digits) AS digit_agreement,
        sum(asked)::BIGINT AS n, count(*) AS prompts,
        sum(exact ** 2) AS xx, sum(exact * asked) AS xn, sum(asked ** 2) AS nn
    FROM prompt
    GROUP BY ALL
)
SELECT
    * EXCLUDE (prompts, xx, xn, nn),
    sqrt(greatest(xx - 2 * exact_match * xn + exact_match ** 2 * nn, 0) * prompts / nullif(prompts - 1, 0)) / n AS stderr
FROM share;

-- What lies before (`upwards`) or behind the artifacts and jobs that `wanted` names, with the distance.
CREATE MACRO walk(wanted, upwards) AS TABLE
WITH RECURSIVE start AS (
    SELECT artifact AS node FROM artifacts
    WHERE artifact = wanted OR ends_with(path, wanted) OR (length(wanted) >= 6 AND starts_with(sha256, wanted))
    UNION
    SELECT job FROM jobs WHERE job = wanted OR (name = wanted AND current)
), reached(node, depth) AS (
    SELECT node, 0 FROM start
    UNION
    SELECT if(upwards, e.src, e.dst), r.depth + 1
    FROM reached AS r JOIN edges AS e ON if(upwards, e.dst, e.src) = r.node
)
SELECT node, min(depth) AS depth FROM reached GROUP BY node;
