curl http://localhost:8000/v2/health/live
