"""The local stack: everything that Trunkline needs on one machine, from the stores to the processes of the Procfile."""
