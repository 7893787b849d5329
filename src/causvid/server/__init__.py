"""The server: live sessions over WebSocket, batch jobs over OpenAI's video routes, and the studio."""
