"""The use cases of a number: provision, deprovision, repair, move, verify, dry run, inventory."""
