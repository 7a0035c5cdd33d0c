-- What earlier configurations of the study left behind
FROM superseded ORDER BY started_at, job
