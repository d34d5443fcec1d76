"""What can be done with a number: provision, deprovision, repair, move, verify, dry run, inventory, head-room."""
