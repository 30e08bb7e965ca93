"""What the crash means: bug check arguments, the failure's registers and code, candidates for the culprit."""
