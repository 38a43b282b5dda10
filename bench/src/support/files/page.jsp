<%@ page session="false" trimDirectiveWhitespaces="true" contentType="text/html; charset=US-ASCII" %><%
    // A page of the site: what the user asked for, a list of what else there is, and padding up to the page's size.
    final int bytes = {bytes};
    StringBuilder text = new StringBuilder(bytes + 64);
    text.append("<html><head><title>{page}</title></head><body><h1>{page}</h1><p>User ");
    text.append(Integer.parseUnsignedInt(request.getParameter("u")));
    text.append(", query ").append(Integer.toUnsignedString(Integer.parseUnsignedInt(request.getParameter("q"))));
    text.append("</p><ul>");
    for (int image = 0; image < {images} && text.length() < bytes - 64; image++) {
        text.append("<img src=\"/images/{page}/").append(image).append(".gif\">");
    }
    text.append("</ul></body></html><!--");
    while (text.length() < bytes) {
        text.append((char) ('a' + text.length() % 26));
    }
    text.setLength(bytes);
    response.setContentLength(bytes);
    out.print(text);
%>
