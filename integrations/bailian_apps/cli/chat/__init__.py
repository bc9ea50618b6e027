"""`bailian-apps chat`: a conversation with an app, in a terminal."""
