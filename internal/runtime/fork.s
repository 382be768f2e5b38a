// Empty: lets fork.go declare functions without a body (linkname).
