module example.org/goprogram

go 1.19
