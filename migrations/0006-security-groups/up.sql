-- The security groups that a pod names for its ENI. An ENI without a row has the cluster's. They stay with the ENI while
-- its address is retained, and are those of the pod that has it or had it last.
CREATE TABLE eni_security_groups (
  eni INTEGER PRIMARY KEY REFERENCES eni ON DELETE CASCADE,
  ids TEXT NOT NULL                      -- as JSON, in the order of the pod
) STRICT;
