-- The same conditions as comparisons: for `x IN (…)` with more than two values SQLite makes a table in each
-- statement that writes. Done as the documentation of ALTER TABLE has it for constraints that no stored row
-- contradicts ("Making Other Kinds Of Table Schema Changes").
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(replace(sql,
  'state IN (''free'', ''in_use'', ''retained'', ''detaching'', ''excluded'')',
  'state = ''free'' OR state = ''in_use'' OR state = ''retained'' OR state = ''detaching'' OR state = ''excluded'''),
  'state IN (''in_use'', ''retained'', ''detaching'')',
  'state = ''in_use'' OR state = ''retained'' OR state = ''detaching''')
  WHERE type = 'table' AND name = 'address';
UPDATE sqlite_schema SET sql = replace(replace(sql,
  'state IN (''Unsure'', ''Available'', ''Attaching'', ''InUse'', ''Detaching'', ''Deleting'')',
  'state = ''Unsure'' OR state = ''Available'' OR state = ''Attaching'' OR state = ''InUse'' OR state = ''Detaching'' OR state = ''Deleting'''),
  'target IN (''InUse'', ''Available'', ''Gone'')',
  'target = ''InUse'' OR target = ''Available'' OR target = ''Gone''')
  WHERE type = 'table' AND name = 'eni';
UPDATE sqlite_schema SET sql = replace(replace(replace(sql,
  'state IN (''Available'', ''Attaching'', ''InUse'', ''Detaching'', ''Deleting'')',
  'state = ''Available'' OR state = ''Attaching'' OR state = ''InUse'' OR state = ''Detaching'' OR state = ''Deleting'''),
  'state IN (''Attaching'', ''InUse'', ''Detaching'')',
  'state = ''Attaching'' OR state = ''InUse'' OR state = ''Detaching'''),
  'state IN (''Attaching'', ''Detaching'', ''Deleting'')',
  'state = ''Attaching'' OR state = ''Detaching'' OR state = ''Deleting''')
  WHERE type = 'table' AND name = 'sim_eni';
PRAGMA writable_schema = RESET;
