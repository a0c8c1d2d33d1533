/* What the small C clients share: a TCP connection to localhost, the two requests, and reading a response. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[1 << 20];

static int connect_to(const char *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return connect(fd, (struct sockaddr *)&address, sizeof(address)) ? -1 : fd;
}

/* Both requests, the second with the file as its body; the number of bytes in `buffer`. */
static size_t compose(int which, const char *port, const char *upload)
{
	FILE *file = fopen(upload, "rb");
	size_t length, head;

	if (which == 0)
		return sprintf(buffer, "GET /download HTTP/1.1\r\nHost: localhost:%s\r\n\r\n", port);
	fseek(file, 0, SEEK_END);
	length = ftell(file);
	rewind(file);
	head = sprintf(buffer, "PUT /upload/body HTTP/1.1\r\nHost: localhost:%s\r\nContent-Length: %zu\r\n"
		"Connection: close\r\n\r\n", port, length);
	return head + fread(buffer + head, 1, length, file);
}

/* 1: `buffer`, of n bytes, holds a whole response. */
static int complete(size_t n)
{
	char *end, *field;

	buffer[n] = 0;
	end = strstr(buffer, "\r\n\r\n");
	if (!end)
		return 0;
	field = strcasestr(buffer, "content-length:");
	return n >= (end + 4 - buffer) + (field && field < end ? strtoul(field + 15, NULL, 10) : 0);
}
