"""One suspect before all references: its weights are read, it is asked, every reference decides."""
