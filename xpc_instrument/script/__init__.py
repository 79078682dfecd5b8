"""The probe script's side: sessions, hooks, calls, and the manager of the seed API."""
