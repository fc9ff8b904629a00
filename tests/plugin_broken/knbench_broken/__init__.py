"""A package whose editing method violates the contract, for tests."""
