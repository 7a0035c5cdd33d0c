"""The SQL behind the report: what is asked of the catalog, always about the study as it is now."""

PARTS = 4
"""Of a prompt, in which look-ups are told apart by place."""
STAGES = """
SELECT
    s.*, r.pattern, r.layers, r.hidden_size, r.parameters, r.non_embedding_parameters, j.cpu_s, j.wall_s,
    coalesce((SELECT max(value) FROM metrics AS m WHERE m.stage = s.stage AND name = 'memory_bytes'),
             s.peak_memory_bytes) AS device_memory_bytes
FROM stages AS s JOIN runs AS r USING (run) LEFT JOIN jobs AS j USING (job)
WHERE s.current
"""
CURVES = """
SELECT
    stage, step, tokens, total_tokens, loss, sum(step_s) OVER (PARTITION BY stage ORDER BY step) AS elapsed_s
FROM steps
WHERE stage IN (SELECT stage FROM stages WHERE current) AND loss IS NOT NULL
ORDER BY stage, step
"""
SCORES = """
SELECT
    model, stage_kind, trained_context_tokens, suite, kind, task, metric, variant, context_tokens, lower_is_better,
    list(value ORDER BY seed) AS values, avg(stderr) AS stderr, sum(n)::BIGINT AS n, min(artifact) AS artifact, part_of
FROM current_evals
WHERE value IS NOT NULL
GROUP BY ALL
"""
POSITIONS = f"""
SELECT
    model, stage_kind, trained_context_tokens, suite, task, variant, context_tokens, part,
    list(exact_match ORDER BY seed) AS values, avg(exact_match) AS value, avg(digit_agreement) AS digits,
    avg(stderr) AS stderr, sum(n)::BIGINT AS n
FROM positions({PARTS})
GROUP BY ALL
"""
JOBS = "SELECT * EXCLUDE (config) FROM jobs WHERE current ORDER BY started_at, job"
CODE = """
SELECT version, code_sha256, commit, dirty, count(*) AS jobs, min(started_at) AS first, max(ended_at) AS last
FROM jobs WHERE current GROUP BY ALL ORDER BY first, code_sha256
"""
MACHINES = """
SELECT host, cores, e.*, count(*) AS jobs
FROM jobs JOIN environments AS e USING (environment) WHERE current GROUP BY ALL ORDER BY environment, host
"""
SUPERSEDED = """
SELECT s.model, s.seed, s.kind, s.context_tokens, s.stage, s.final_loss, s.tokens, s.started_at
FROM stages AS s WHERE NOT s.current ORDER BY s.model, s.seed, s.context_tokens, s.stage
"""
CHANGES = """
SELECT old.stage, old.key, old.value AS was, new.value AS is
FROM params AS old
JOIN stages AS o ON o.stage = old.stage AND NOT o.current
JOIN stages AS n ON n.current AND n.model = o.model AND n.seed = o.seed AND n.kind = o.kind
    AND (n.context_tokens = o.context_tokens OR n.kind = 'pretrain')
JOIN params AS new ON new.stage = n.stage AND new.key = old.key
WHERE old.value IS DISTINCT FROM new.value
ORDER BY ALL
"""
SAMPLES = """
SELECT d.* FROM dropped_samples AS d JOIN sources AS s USING (job) WHERE s.current
ORDER BY d.source, d.place, d.reason, d.text
"""
LENGTHS = """
SELECT DISTINCT s.kind, s.context_tokens, split_part(f.key, '.', 3)::BIGINT AS from_tokens, f.number AS share
FROM facts AS f JOIN stages AS s ON s.job = f.job AND s.current WHERE f.key LIKE 'data.lengths.%'
ORDER BY ALL
"""
FILTERS = """
SELECT f.*, (SELECT string_agg(d.reason || ' ' || d.documents, ', ' ORDER BY d.documents DESC, d.reason)
             FROM dropped AS d WHERE (d.job, d.place) = (f.job, f.place) AND d.documents > 0) AS reasons
FROM cleaning AS f ORDER BY f.source, place
"""
EXPORTS = """
SELECT e.*, s.model, s.seed, s.kind, s.context_tokens
FROM exports AS e JOIN stages AS s USING (stage) WHERE e.current
"""
EVENTS = """
SELECT e.event, count(*) AS count FROM events AS e JOIN stages AS s USING (stage) WHERE s.current GROUP BY ALL
"""
