"""Data sets, nets and targets that come with casemate."""
