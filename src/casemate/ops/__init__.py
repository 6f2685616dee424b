"""Pure tensor functions; they know torch and nothing of casemate."""
