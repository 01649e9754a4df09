"""What several builders share: archives, images, tables, splits by group, the report of a preparation."""
