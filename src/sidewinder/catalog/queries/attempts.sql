-- Every start of every stage: where, from which step, how long, and why it ended
-- $of = NULL: only stages whose name contains this
SELECT
    a.stage, a.attempt, a.launcher, a.launched_job AS job, a.nodes, a.started_at, a.from_step,
    round(epoch(a.ended_at) - epoch(a.started_at)) AS seconds, a.reason, a.error
FROM attempts AS a JOIN stages AS s USING (stage)
WHERE s.current AND ($of IS NULL OR contains(a.stage, $of))
ORDER BY a.stage, a.attempt
