-- Rows that are written together lie together. An index on a random value, or a table in its order, has a page of
-- its own for each row, and a page is what a commit writes: only UIDs, by which pods are found, still have one.

-- A pod has one address because it has one ENI; the trigger `address_step` sees to that.
ALTER TABLE address RENAME TO old_address;
CREATE TABLE address (
  vswitch INTEGER NOT NULL REFERENCES vswitch,
  addr INTEGER NOT NULL,                 -- IPv4 as a number
  state TEXT NOT NULL CHECK (state = 'free' OR state = 'in_use' OR state = 'retained' OR state = 'detaching' OR state = 'excluded'),
  barred INTEGER NOT NULL CHECK (barred IN (0, 1)),  -- the operator excludes it: it leaves at its release
  claim INTEGER UNIQUE REFERENCES claim,
  pod TEXT,
  eni INTEGER UNIQUE REFERENCES eni,
  gen INTEGER NOT NULL,                  -- counts every change; fences late writers
  since_ms INTEGER NOT NULL,
  why TEXT NOT NULL,
  PRIMARY KEY (vswitch, addr),
  CHECK ((state = 'in_use') = (pod IS NOT NULL)),
  CHECK (state <> 'retained' OR claim IS NOT NULL),
  CHECK (state IN ('in_use', 'retained') OR claim IS NULL),
  CHECK ((state = 'in_use' OR state = 'retained' OR state = 'detaching') = (eni IS NOT NULL)),
  CHECK (state <> 'free' OR barred = 0),
  CHECK (state <> 'excluded' OR barred = 1)
) STRICT, WITHOUT ROWID;
INSERT INTO address SELECT * FROM old_address;
DROP TABLE old_address;

CREATE INDEX address_free ON address (vswitch, since_ms, addr) WHERE state = 'free';

-- Holders are found by their address.
DROP INDEX claim_holder;

-- By rows, and not in the order of UIDs.
DROP INDEX pod_key;
ALTER TABLE pod RENAME TO old_pod;
CREATE TABLE pod (
  uid TEXT NOT NULL UNIQUE,
  cluster TEXT NOT NULL,
  namespace TEXT NOT NULL,
  name TEXT NOT NULL,
  node TEXT NOT NULL,
  node_type TEXT NOT NULL CHECK (node_type IN ('acs', 'ecs')),
  zone TEXT NOT NULL,
  hours INTEGER,                         -- retention asked for; NULL: ordinary
  vswitches TEXT NOT NULL,               -- the ones it names, as JSON
  created_ms INTEGER NOT NULL,
  accepted_ms INTEGER NOT NULL,
  deleted_ms INTEGER,                    -- deletion was seen; read once, never moved
  stopped_ms INTEGER,                    -- its containers have ended
  ended_ms INTEGER,                      -- it has succeeded or failed and stays in the API
  gone_ms INTEGER,                       -- it is gone from the API
  eni INTEGER UNIQUE REFERENCES eni,     -- NULL: waiting for an address, or let go of it
  instance TEXT NOT NULL,
  request_id TEXT NOT NULL,
  revision INTEGER NOT NULL              -- resourceVersion of its creation; 0: not known
) STRICT;
INSERT INTO pod SELECT * FROM old_pod;
DROP TABLE old_pod;
CREATE INDEX pod_key ON pod (cluster, namespace, name);

ALTER TABLE pod_log RENAME TO old_pod_log;
CREATE TABLE pod_log (
  uid TEXT NOT NULL UNIQUE,
  cluster TEXT NOT NULL,
  namespace TEXT NOT NULL,
  name TEXT NOT NULL,
  node TEXT NOT NULL,
  node_type TEXT NOT NULL,
  zone TEXT NOT NULL,
  hours INTEGER,                         -- retention asked for; NULL: ordinary
  vswitches TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  accepted_ms INTEGER NOT NULL,
  deleted_ms INTEGER,                    -- NULL until it has let go, and when nobody saw the deletion
  let_go_ms INTEGER                      -- gone from the API and detached; NULL: not yet
) STRICT;
INSERT INTO pod_log SELECT * FROM old_pod_log;
DROP TABLE old_pod_log;

CREATE TRIGGER pod_accepted AFTER INSERT ON pod BEGIN
  INSERT INTO pod_log VALUES
    (new.uid, new.cluster, new.namespace, new.name, new.node, new.node_type, new.zone, new.hours,
     new.vswitches, new.created_ms, new.accepted_ms, NULL, NULL)
    ON CONFLICT (uid) DO UPDATE SET let_go_ms = NULL;
END;

CREATE TRIGGER pod_let_go AFTER DELETE ON pod BEGIN
  UPDATE pod_log SET deleted_ms = old.deleted_ms, let_go_ms = (SELECT last_ms FROM ledger)
    WHERE uid = old.uid;
END;

CREATE TRIGGER address_step BEFORE UPDATE OF state, claim, pod, eni ON address
  WHEN (new.state, new.claim, new.pod, new.eni) IS NOT (old.state, old.claim, old.pod, old.eni) BEGIN
  SELECT RAISE(ABORT, 'an address cannot take this step')
    WHERE NOT CASE old.state || '>' || new.state
      WHEN 'free>in_use' THEN TRUE
      WHEN 'free>excluded' THEN TRUE
      WHEN 'excluded>free' THEN TRUE
      WHEN 'in_use>in_use' THEN new.claim IS NULL AND new.pod IS old.pod AND new.eni IS old.eni
      WHEN 'in_use>retained' THEN new.claim IS old.claim AND new.eni IS old.eni
      WHEN 'retained>in_use' THEN new.claim IS old.claim AND new.eni IS old.eni
      WHEN 'in_use>detaching' THEN new.eni IS old.eni
      WHEN 'retained>detaching' THEN new.eni IS old.eni
      WHEN 'detaching>free' THEN TRUE
      WHEN 'detaching>excluded' THEN TRUE
      ELSE FALSE END;
  SELECT RAISE(ABORT, 'a claimed address is given up by ending the claim')
    WHERE old.claim IS NOT NULL AND new.claim IS NULL
      AND EXISTS (SELECT 1 FROM claim WHERE id = old.claim AND closed_ms IS NULL);
  SELECT RAISE(ABORT, 'an address is not free before its ENI is deleted')
    WHERE old.state = 'detaching' AND NOT EXISTS (SELECT 1 FROM eni_end WHERE eni = old.eni);
  SELECT RAISE(ABORT, 'an address is used by the pod that has its ENI, which is the holder of its claim')
    WHERE new.state = 'in_use' AND NOT (EXISTS (SELECT 1 FROM pod WHERE uid = new.pod AND eni = new.eni)
      AND (new.claim IS NULL OR EXISTS (SELECT 1 FROM claim WHERE id = new.claim AND holder = new.pod)));
END;

CREATE TRIGGER address_changed AFTER UPDATE OF state, claim, pod, eni ON address BEGIN
  SELECT RAISE(ABORT, 'address changed without a new generation, or back in time')
    WHERE new.gen <> old.gen + 1 OR new.since_ms < old.since_ms;
  UPDATE address_span SET to_ms = new.since_ms
    WHERE vswitch = new.vswitch AND addr = new.addr AND to_ms IS NULL;
  INSERT INTO address_span VALUES
    (new.vswitch, new.addr, new.state, new.claim, new.pod, new.eni, new.gen, new.since_ms, NULL, new.why);
END;

CREATE TRIGGER address_created AFTER INSERT ON address BEGIN
  INSERT INTO address_span VALUES
    (new.vswitch, new.addr, new.state, new.claim, new.pod, new.eni, new.gen, new.since_ms, NULL, new.why);
END;

CREATE TRIGGER address_removed AFTER DELETE ON address BEGIN
  SELECT RAISE(ABORT, 'an address that is not free cannot leave the pool')
    WHERE old.state NOT IN ('free', 'excluded');
  UPDATE address_span SET to_ms = (SELECT last_ms FROM ledger)
    WHERE vswitch = old.vswitch AND addr = old.addr AND to_ms IS NULL;
END;
