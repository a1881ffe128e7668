"""The numbers of Tables 1 and 2: hull, stability, validity, matching, fingerprints, intervals."""
