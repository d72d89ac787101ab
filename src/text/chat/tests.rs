use super::*;

fn render(source: &str, messages: &[(&str, &str)]) -> Result<String, String> {
    let tokens = vec![("bos_token".to_owned(), "<s>".to_owned())];
    let message = |(role, content): &(&str, &str)| Message { role: role.to_string(), content: content.to_string() };
    let messages: Vec<Message> = messages.iter().map(message).collect();
    ChatTemplate::new(source.into(), tokens).render(&messages).map_err(|error| error.to_string())
}

#[test]
fn a_conversation_is_rendered_ready_for_the_answer() {
    let source = "{{ bos_token }}{% for m in messages %}\n[{{ m['role'] }}]{{ m.content.strip() | upper }}\n{% endfor %}\n\
                  {% if add_generation_prompt and not tools %}[assistant]{% endif %}";
    assert_eq!(render(source, &[("user", " hi ")]).unwrap(), "<s>[user]HI\n[assistant]");
}

#[test]
fn user_text_is_neither_escaped_nor_run() {
    assert_eq!(render("{{ messages[0].content }}", &[("user", "<b> & {{ 1 }}'")]).unwrap(), "<b> & {{ 1 }}'");
}

#[test]
fn tojson_writes_what_python_writes() {
    let source = "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}";
    let expected =
        "[{\"role\": \"user\", \"content\": \"<дуб>'\"}]{\n  \"role\": \"user\",\n  \"content\": \"<дуб>'\"\n}";
    assert_eq!(render(source, &[("user", "<дуб>'")]).unwrap(), expected);
}

#[test]
fn what_a_template_raises_is_told() {
    let error = render("{{ raise_exception('no system role') }}", &[("system", "")]).unwrap_err();
    assert_eq!(error, "the base's chat template fails: no system role (line 1)");
    assert!(render("{% if %}", &[("user", "")]).unwrap_err().starts_with("the base's chat template cannot be read: "));
    assert_eq!(render("", &[]).unwrap_err(), "`messages` is empty");
}

#[test]
fn loops_break_and_generation_tags_print_nothing() {
    let source = "{%- for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}\n\
                  {%- generation -%} {{ m.content }}{% endgeneration %}{% endfor %}";
    assert_eq!(render(source, &[("user", "a"), ("user", "b")]).unwrap(), "a");
}

#[test]
fn the_date_can_be_written() {
    assert_eq!(render("{{ strftime_now('%Y-%m-%d') | length }}", &[("user", "")]).unwrap(), "10");
}

#[test]
fn no_tools_are_no_list() {
    let source = "{% if tools is iterable and tools | length > 0 %}a{% elif messages is iterable %}b{% endif %}";
    assert_eq!(render(source, &[("user", "")]).unwrap(), "b");
}
