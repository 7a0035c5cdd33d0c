-- Jobs that read a file which has since been made anew with other content
FROM stale ORDER BY job, path
