-- The API server's times of creation are whole seconds. Two pods of one name may share one; which was
-- made later is told by the revision at which each was first seen. 0: not known.
ALTER TABLE pod ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
