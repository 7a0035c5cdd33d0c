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
