-- The log of pods, found by when they were made and not by their UIDs alone: those are in no order, and an index on them
-- had a page of its own to write for each pod. One table of pods with such an index is enough; there a UID is unique.
DROP TRIGGER pod_accepted;
DROP TRIGGER pod_let_go;
ALTER TABLE pod_log RENAME TO old_pod_log;
CREATE TABLE pod_log (
  uid TEXT NOT NULL,
  cluster TEXT NOT NULL,
  namespace TEXT NOT NULL,
  name TEXT NOT NULL,
  node TEXT NOT NULL,
  node_type TEXT NOT NULL,
  zone TEXT NOT NULL,
  hours INTEGER,                         -- retention asked for; NULL: ordinary
  vswitches TEXT NOT NULL,
  created_ms INTEGER NOT NULL,           -- of a UID always the same
  accepted_ms INTEGER NOT NULL,
  deleted_ms INTEGER,                    -- NULL until it has let go, and when nobody saw the deletion
  let_go_ms INTEGER,                     -- gone from the API and detached; NULL: not yet
  UNIQUE (created_ms, uid)
) STRICT;
INSERT INTO pod_log SELECT * FROM old_pod_log;
DROP TABLE old_pod_log;

CREATE TRIGGER pod_accepted AFTER INSERT ON pod BEGIN
  INSERT INTO pod_log VALUES
    (new.uid, new.cluster, new.namespace, new.name, new.node, new.node_type, new.zone, new.hours,
     new.vswitches, new.created_ms, new.accepted_ms, NULL, NULL)
    ON CONFLICT (created_ms, uid) DO UPDATE SET let_go_ms = NULL;
END;

CREATE TRIGGER pod_let_go AFTER DELETE ON pod BEGIN
  UPDATE pod_log SET deleted_ms = old.deleted_ms, let_go_ms = (SELECT last_ms FROM ledger)
    WHERE created_ms = old.created_ms AND uid = old.uid;
END;
