-- Training speed and memory of every current stage
-- Memory of the device is what its allocator reached (on a CPU, the process); of the process, its host memory.
SELECT
    s.model, s.seed, s.kind, s.context_tokens, r.parameters, s.tokens, s.train_s, s.tokens_per_s,
    s.tokens_per_s * s.flops_per_token / 1e9 AS gflop_per_s, median(m.step_s) AS median_step_s,
    round(max(m.memory_bytes) / 2**20) AS device_memory_mib, round(s.peak_memory_bytes / 2**20) AS process_memory_mib
FROM stages AS s JOIN runs AS r USING (run) LEFT JOIN steps AS m USING (stage)
WHERE s.current AND s.status = 'finished'
GROUP BY ALL
ORDER BY s.context_tokens, s.model, s.seed
