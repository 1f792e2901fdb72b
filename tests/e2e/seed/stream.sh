curl -X POST http://localhost:8000/v2/models/llm_decoupled/generate_stream \
  -H "Content-Type: application/json" \
  -H "Accept: text/event-stream" \
  -d '{
    "text_input": "[{\"role\":\"user\",\"content\":\"Say hello\"}]",
    "parameters": {"streaming": true}
  }'
