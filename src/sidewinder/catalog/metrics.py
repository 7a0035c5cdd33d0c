"""metrics.jsonl files → `metrics` and `events`, by DuckDB's own JSON reader.

Rows that a resumed run put behind it are left out, as `train.metrics.read_metrics` does: a start, resume or rollback to
step s supersedes every earlier row beyond s. A last line that is only half written (a run that writes, or was killed)
is passed over; other lines that are not JSON are counted in a warning.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from sidewinder.catalog.survey import METRICS, Survey

READ = """
CREATE TEMP TABLE line AS
SELECT
    f.stage, split_part(f.stage, '/', 1) AS run, place - min(place) OVER (PARTITION BY filename) + 1 AS place,
    json, json->>'event' AS event, TRY_CAST(json->>'step' AS BIGINT) AS step,
    TRY_CAST(json->>'tokens' AS BIGINT) AS tokens, TRY_CAST(json->>'from_step' AS BIGINT) AS from_step,
    make_timestamp(CAST(1e6 * TRY_CAST(json->>'time' AS DOUBLE) AS BIGINT)) AS time
FROM (
    SELECT row_number() OVER () AS place, filename, json
    FROM read_ndjson_objects($files, ignore_errors = true, filename = true)
)
JOIN metrics_file AS f USING (filename)
"""

METRIC_ROWS = """
INSERT INTO metrics
WITH counted AS (
    SELECT * FROM line
    WHERE event = 'step' AND step IS NOT NULL AND NOT EXISTS (
        FROM line AS later
        WHERE later.stage = line.stage AND later.event IN ('start', 'resume', 'rollback')
            AND later.place > line.place AND later.from_step < line.step
    )
    QUALIFY place = max(place) OVER (PARTITION BY stage, step)
), number AS (
    SELECT c.*, each.key AS name, TRY_CAST(each.value->>'$' AS DOUBLE) AS value
    FROM counted AS c, json_each(c.json) AS each
    WHERE each.key NOT IN ('event', 'step', 'tokens', 'time')
)
SELECT stage, run, step, tokens, tokens + coalesce(s.parent_tokens, 0), name, value, time
FROM number LEFT JOIN (SELECT stage, parent_tokens FROM stages) AS s USING (stage)
WHERE value IS NOT NULL
ORDER BY stage, step, name
"""

EVENT_ROWS = """
INSERT INTO events
SELECT stage, run, place, event, step, time, json FROM line
WHERE event IS NOT NULL AND event <> 'step'
ORDER BY stage, place
"""

# A kill cuts its last line short; what follows it then is the end of the file or the next attempt's first event.
BROKEN_LINES = """
SELECT any_value(f.filename), count(*)
FROM (SELECT *, lead(event) OVER (PARTITION BY stage ORDER BY place) AS next FROM line)
JOIN metrics_file AS f USING (stage)
WHERE json IS NULL AND next = 'step'
GROUP BY stage ORDER BY stage
"""


def ingest_metrics(connection: duckdb.DuckDBPyConnection, found: Survey) -> None:
    """Fills `metrics` and `events`; `stages` must be filled before."""
    files = {str(stage.folder / METRICS): stage.stage for stage in found.stages}
    files = {path: stage for path, stage in files.items() if Path(path).is_file() and Path(path).stat().st_size}
    if not files:
        return
    connection.execute(
        "CREATE TEMP TABLE metrics_file AS SELECT unnest($files) AS filename, unnest($stages) AS stage",
        {"files": list(files), "stages": list(files.values())},
    )
    connection.execute(READ, {"files": list(files)})
    connection.execute(METRIC_ROWS)
    connection.execute(EVENT_ROWS)
    for path, count in connection.execute(BROKEN_LINES).fetchall():
        found.warnings.append((path, f"{count} lines are not JSON; they are left out"))
    connection.execute("DROP TABLE line")
    connection.execute("DROP TABLE metrics_file")
