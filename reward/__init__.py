"""What is good: one pure function per term, with declared units."""
