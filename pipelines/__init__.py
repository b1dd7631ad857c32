"""The loop, drawn: Airflow DAGs whose tasks are `sharpline` commands."""
