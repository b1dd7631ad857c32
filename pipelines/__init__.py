"""The retraining loop as Airflow DAGs whose tasks are `sharpline` commands."""
