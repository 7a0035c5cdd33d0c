-- Documents, bytes and tokens of every source, and what was dropped
FROM corpus ORDER BY weight DESC, source
