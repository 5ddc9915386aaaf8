"""What a statement is: by its text, by what PostgreSQL tells, and by how it ran."""
