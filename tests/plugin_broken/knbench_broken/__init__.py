"""A package whose editing method breaks a rule, for tests."""
