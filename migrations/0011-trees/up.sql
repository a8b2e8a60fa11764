-- A step of a pod writes into fewer trees: each has a page of its own to write in each COMMIT.

-- Children first: a table that goes takes with it the rows that refer to it.
ALTER TABLE eni_security_groups RENAME TO old_eni_security_groups;
ALTER TABLE address RENAME TO old_address;
ALTER TABLE pod RENAME TO old_pod;
ALTER TABLE eni RENAME TO old_eni;

-- An address has one ENI because its row names one, and no two addresses name the same. The cloud gives ids and MACs, and
-- has each once; here they are looked for by nothing that a pod waits for.
CREATE TABLE eni (
  id INTEGER PRIMARY KEY,
  token TEXT NOT NULL UNIQUE,            -- client token of its creation
  eni_id TEXT,                           -- NULL until the cloud has named it
  mac TEXT,
  vswitch INTEGER NOT NULL REFERENCES vswitch,
  addr INTEGER NOT NULL,
  state TEXT CHECK (state = 'Unsure' OR state = 'Available' OR state = 'Attaching' OR state = 'InUse' OR state = 'Detaching' OR state = 'Deleting'),   -- NULL: not made yet
  target TEXT NOT NULL CHECK (target = 'InUse' OR target = 'Available' OR target = 'Gone'),
  instance TEXT,                         -- what it is or will be attached to
  CHECK ((eni_id IS NULL) = (mac IS NULL)),
  CHECK (state IS NULL OR state = 'Unsure' OR eni_id IS NOT NULL),
  CHECK (target <> 'InUse' OR instance IS NOT NULL)
) STRICT;
INSERT INTO eni SELECT * FROM old_eni;

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
  eni INTEGER UNIQUE REFERENCES eni DEFERRABLE INITIALLY DEFERRED,     -- NULL: waiting for an address, or let go of it
  instance TEXT NOT NULL,
  request_id TEXT NOT NULL,
  revision INTEGER NOT NULL              -- resourceVersion of its creation; 0: not known
) STRICT;
INSERT INTO pod SELECT * FROM old_pod;

CREATE TABLE address (
  vswitch INTEGER NOT NULL REFERENCES vswitch,
  addr INTEGER NOT NULL,                 -- IPv4 as a number
  state TEXT NOT NULL CHECK (state = 'free' OR state = 'in_use' OR state = 'retained' OR state = 'detaching' OR state = 'excluded'),
  barred INTEGER NOT NULL CHECK (barred IN (0, 1)),  -- the operator excludes it: it leaves at its release
  claim INTEGER REFERENCES claim DEFERRABLE INITIALLY DEFERRED,
  pod TEXT,
  eni INTEGER REFERENCES eni DEFERRABLE INITIALLY DEFERRED,
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

CREATE TABLE eni_security_groups (
  eni INTEGER PRIMARY KEY REFERENCES eni ON DELETE CASCADE,
  ids TEXT NOT NULL                      -- as JSON, in the order of the pod
) STRICT;
INSERT INTO eni_security_groups SELECT * FROM old_eni_security_groups;

DROP TABLE old_eni_security_groups;
DROP TABLE old_address;
DROP TABLE old_pod;
DROP TABLE old_eni;

CREATE INDEX pod_key ON pod (cluster, namespace, name);
CREATE INDEX address_free ON address (vswitch, since_ms, addr) WHERE state = 'free';
-- Free addresses have neither.
CREATE UNIQUE INDEX address_claim ON address (claim) WHERE claim IS NOT NULL;
CREATE UNIQUE INDEX address_eni ON address (eni) WHERE eni IS NOT NULL;

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

CREATE TRIGGER address_changed AFTER UPDATE OF state, claim, pod, eni ON address BEGIN
  UPDATE address_span SET to_ms = new.since_ms
    WHERE vswitch = old.vswitch AND addr = old.addr AND from_ms = old.since_ms AND gen = old.gen AND to_ms IS NULL;
  INSERT INTO address_span VALUES
    (new.vswitch, new.addr, new.state, new.claim, new.pod, new.eni, new.gen, new.since_ms, NULL, new.why);
END;

-- A cloud may delete an ENI at once: then there is no time in which its address waits for that. No function is called:
-- SQLite takes each for one that may fail, and then copies the pages of the statement after all.
CREATE TRIGGER address_step BEFORE UPDATE OF state, claim, pod, eni ON address BEGIN
  SELECT RAISE(ROLLBACK, 'the history of an address does not end with its row')
    WHERE NOT EXISTS (SELECT 1 FROM address_span
      WHERE vswitch = old.vswitch AND addr = old.addr AND from_ms = old.since_ms AND gen = old.gen AND to_ms IS NULL);
  SELECT RAISE(FAIL, 'address changed without a new generation, or back in time')
    WHERE new.gen <> old.gen + 1 OR new.since_ms < old.since_ms;
  SELECT RAISE(FAIL, 'an address cannot take this step')
    WHERE (new.state, new.claim, new.pod, new.eni) IS NOT (old.state, old.claim, old.pod, old.eni)
    AND NOT CASE old.state || '>' || new.state
      WHEN 'free>in_use' THEN TRUE
      WHEN 'in_use>free' THEN TRUE
      WHEN 'in_use>retained' THEN new.claim IS old.claim AND new.eni IS old.eni
      WHEN 'retained>in_use' THEN new.claim IS old.claim AND new.eni IS old.eni
      WHEN 'in_use>detaching' THEN new.eni IS old.eni
      WHEN 'retained>detaching' THEN new.eni IS old.eni
      WHEN 'detaching>free' THEN TRUE
      WHEN 'retained>free' THEN TRUE
      WHEN 'in_use>in_use' THEN new.claim IS NULL AND new.pod IS old.pod AND new.eni IS old.eni
      WHEN 'in_use>excluded' THEN TRUE
      WHEN 'retained>excluded' THEN TRUE
      WHEN 'detaching>excluded' THEN TRUE
      WHEN 'free>excluded' THEN TRUE
      WHEN 'excluded>free' THEN TRUE
      ELSE FALSE END;
  SELECT RAISE(FAIL, 'a claimed address is given up by ending the claim')
    WHERE old.claim IS NOT NULL AND new.claim IS NULL
      AND EXISTS (SELECT 1 FROM claim WHERE id = old.claim AND closed_ms IS NULL);
  SELECT RAISE(FAIL, 'an address is not free before its ENI is deleted')
    WHERE old.eni IS NOT NULL AND new.eni IS NULL
      AND NOT EXISTS (SELECT 1 FROM eni_end WHERE eni = old.eni);
  SELECT RAISE(FAIL, 'an address is used by the pod that has its ENI, which is the holder of its claim')
    WHERE new.state = 'in_use' AND NOT (EXISTS (SELECT 1 FROM pod WHERE uid = new.pod AND eni = new.eni)
      AND (new.claim IS NULL OR EXISTS (SELECT 1 FROM claim WHERE id = new.claim AND holder = new.pod)));
END;

-- Its end is written when the cloud has it no longer, by whoever has heard that.
CREATE TRIGGER eni_removed BEFORE DELETE ON eni BEGIN
  SELECT RAISE(FAIL, 'an ENI that may exist is not forgotten')
    WHERE NOT EXISTS (SELECT 1 FROM eni_end WHERE eni = old.id);
END;
