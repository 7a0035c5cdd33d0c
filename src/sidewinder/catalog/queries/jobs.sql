-- Time and memory of every job
-- $kind = NULL: only this kind
-- $all = false: true to list superseded jobs as well
SELECT
    kind, name, started_at, wall_s, cpu_s, round(peak_memory_bytes / 2**20) AS peak_memory_mib, host, version,
    left(commit, 10) AS commit, current
FROM jobs
WHERE ($kind IS NULL OR kind = $kind) AND (current OR $all::BOOLEAN)
ORDER BY started_at, job
