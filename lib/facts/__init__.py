"""Facts: tables -> checked records -> answer formats -> splits."""
