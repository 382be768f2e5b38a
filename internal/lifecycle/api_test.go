package lifecycle

import "wharf/internal/dockerapi"

// The engine is what the door calls.
var _ dockerapi.Containers = (*Engine)(nil)
